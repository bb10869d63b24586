"""The commands: public functions that ``tokenloc.cli`` puts on the command line."""

"""Tests against the outputs of released code."""

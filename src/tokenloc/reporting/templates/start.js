startFilters();
startClassTable();
startImageTable();
startGallery();
startSliders(updateCards);
chooseGallery(0);

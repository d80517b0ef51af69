"""A look at data without training: layout, classes, sizes, problems and remedies, a sheet of labelled pictures."""

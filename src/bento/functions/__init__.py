"""Functions that come with Bento: one folder each, with what runs at a box, its client half and a README."""

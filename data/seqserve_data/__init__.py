"""Reads labelled and unlabelled sequences from files, checks them and splits them."""

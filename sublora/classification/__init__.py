"""Classifiers with certificates: from labelled text to a verified bound on the share of errors."""

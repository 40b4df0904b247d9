"""Figures and pictures of reports, previews and predictions."""

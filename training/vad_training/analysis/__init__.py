"""Analyses of a scored set of clips: tables, pictures and one page that shows them all."""

"""What the report about a segmenter counts, keeps and shows."""

"""Image sets in folders, parquet shards and WebDataset tars, local or remote."""

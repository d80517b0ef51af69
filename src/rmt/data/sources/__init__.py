"""Where images come from: folders, parquet and tar shards, local or at an address."""

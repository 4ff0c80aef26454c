"""Files: the cache folder, packages fetched by hash, and writes that are whole or not there."""

"""The Zarr store: layout, codecs, writer, catalog, reader."""

"""Reports: one HTML file that a browser opens without a network, of a model or of a comparison."""

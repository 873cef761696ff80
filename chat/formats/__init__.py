"""What conversations are exported to and imported from: one module for each format, all in one table."""

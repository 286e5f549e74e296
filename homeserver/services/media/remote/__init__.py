"""Media of other servers, and thumbnails that they make."""

"""Media of other servers: the multipart form in which they come, and the fetching of them."""

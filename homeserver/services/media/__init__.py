"""Media: contents and their store, uploads, downloads, retention."""

"""Pictures and pages, read in processes that hold nothing worth stealing."""

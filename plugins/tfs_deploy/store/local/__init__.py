"""The store on a file system."""

"""What is thrown at the core and at readers of files, and the process that it is thrown in."""

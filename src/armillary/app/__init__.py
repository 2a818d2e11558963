"""The application: the command line and the pages. Imports everything; nothing imports it."""

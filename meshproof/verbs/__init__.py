"""One file per verb of the command line. A verb is thin: it parses, calls the library, prints, and exits."""

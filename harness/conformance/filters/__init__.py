"""What a mesh does to a request on its way: headers, rewrites, redirects, mirrors, faults (F1-F16)."""

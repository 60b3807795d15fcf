"""HTTP itself: allowed hosts and origins, limits of bodies, and reading requests from connections."""

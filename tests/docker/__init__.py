"""Images, compose files, the Helm chart, and the sites of nginx and systemd, each checked with its own tools."""

"""The content policy: rules of a file that requests are judged by before they are accepted."""

"""The same run with its parties on machines of their own: coordinator and clients as processes."""

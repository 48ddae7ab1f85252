"""Model families: their names and configurations, beside ours."""

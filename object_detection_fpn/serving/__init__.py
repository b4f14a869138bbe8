"""SavedModels: export and use."""

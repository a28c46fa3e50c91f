"""Whole collections: copied to another database, embedded anew, taken over from elsewhere."""

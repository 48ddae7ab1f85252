"""Offline preparation: from recordings and annotations to records that train."""

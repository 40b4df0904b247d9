"""What lies behind a URL: stores, mirrors of workdirs in them, and files that are fetched to the cache."""

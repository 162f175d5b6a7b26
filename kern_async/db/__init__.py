"""Where runs and sessions are kept: `sqlite.SqliteDb`, `postgres.PostgresDb`, `in_memory.InMemoryDb`."""

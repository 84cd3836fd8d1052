"""The doors from outside: people with real logins, a prepared incident, statements that try to get around it."""

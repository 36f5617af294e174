"""The pytest door: collects case YAML natively and runs it through the session."""

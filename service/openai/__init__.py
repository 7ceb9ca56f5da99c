"""READ in the form of OpenAI's API: models and chat completions."""

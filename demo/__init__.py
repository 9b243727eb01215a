"""The page that `speechllm demo` serves: speech in, transcript out, with what the model thought of it."""

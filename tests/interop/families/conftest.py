from helpers.llm_folders import folder  # noqa: F401 (a fixture)

from helpers.tiny_model import abstract, make_model, mesh_of, tiny_config  # noqa: F401 (fixtures)

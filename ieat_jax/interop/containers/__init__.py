"""How bytes lie: safetensors, GGUF, CTranslate2."""

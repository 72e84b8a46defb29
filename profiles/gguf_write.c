/* gguf_write.c */
typedef int empty_translation_unit;

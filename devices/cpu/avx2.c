/* avx2.c */
typedef int empty_translation_unit;

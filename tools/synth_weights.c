/* synth_weights.c */
typedef int empty_translation_unit;

/* profile_svg.h - an activation profile as a picture. */
#ifndef HOTSET_TOOLS_PROFILE_SVG_H
#define HOTSET_TOOLS_PROFILE_SVG_H

#include "engine/hotset.h"

/* Writes an SVG document: a row per layer, its units from left to right in order of use, colour says how
 * often; for layers whose neurons are always active how large their activations are. The file appears whole
 * or not at all. False after an error line. */
bool profile_svg(const char *command, const char *path, const hotset_profile *p);

#endif

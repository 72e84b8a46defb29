/* test_planning.c - plans of real models: ledgers are what the engine allocates, choices, refusals, files. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/executor.h"
#include "engine/machine.h"
#include "tests/rig.h"
#include "tests/tiny_model.h"

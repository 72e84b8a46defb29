/* lift.h - sums of integers that are floats all the time.
 *
 * A sum s, |s| < 2^22, that is counted from the bits of LIFT is LIFT + s as a float, whose last bit there is
 * one. To take LIFT off again is a subtraction, or part of a multiplication, instead of a conversion. */
#ifndef HOTSET_CPU_LIFT_H
#define HOTSET_CPU_LIFT_H

#define LIFT 0x1.8p23f
enum { LIFT_BITS = 0x4b400000 };

#endif

/* The anchor of table look-ups: ATS of random cells of one plain array, nothing else. Usage:
 * lookup CELLS LOOKUPS; prints nanoseconds a look-up. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct { int32_t on_hand, committed, held, safety_stock; } Cell;

int main(int count, char **arguments) {
    if (count != 3) return 2;
    uint64_t cells = strtoull(arguments[1], NULL, 10), lookups = strtoull(arguments[2], NULL, 10);
    Cell *table = malloc(cells * sizeof *table);
    for (uint64_t i = 0; i < cells; i++)
        table[i] = (Cell){1000 + (int32_t)(i % 97), (int32_t)(i % 7), (int32_t)(i % 5), 2};
    uint32_t *order = malloc(lookups * sizeof *order);
    uint64_t random = 88172645463325252ull;
    for (uint64_t i = 0; i < lookups; i++) {
        random ^= random << 13; random ^= random >> 7; random ^= random << 17;
        order[i] = (uint32_t)(random % cells);
    }
    struct timespec begun, ended;
    int64_t sum = 0;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &begun);
    for (uint64_t i = 0; i < lookups; i++) {
        const Cell *cell = &table[order[i]];
        int32_t ats = cell->on_hand - cell->committed - cell->held - cell->safety_stock;
        sum += ats > 0 ? ats : 0;
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ended);
    double ns = (double)(ended.tv_sec - begun.tv_sec) * 1e9 + (double)(ended.tv_nsec - begun.tv_nsec);
    printf("%f %lld\n", ns / (double)lookups, (long long)sum);
    return 0;
}

/* What the system half of the software engines shares: mmu.c segment.c interrupt.c task.c system.c debug.c.
 */
#ifndef TRAPEZE_SOFT_SYSTEM_INTERNAL_H
#define TRAPEZE_SOFT_SYSTEM_INTERNAL_H

#include "cpu/paging.h"
#include "soft/soft.h"

/* --- memory as another privilege (mmu.c) --- */

/* What permissions depend on; each PCID has a context number for each. */
enum mmu_class {
    MMU_USER,   /* CPL 3 */
    MMU_SYS,    /* supervisor; with SMAP, user pages are out of bounds */
    MMU_SYS_AC, /* explicit supervisor accesses with SMAP lifted by EFLAGS.AC */
    MMU_CLASSES
};

int mmu_init(struct soft_cpu *c, struct error *err);
void mmu_release(struct soft_cpu *c);

/* Adopts CPL, CR0, CR3, CR4, EFLAGS.AC and DR7: chooses c->ctx and c->ctx_sys. */
void mmu_update(struct soft_cpu *c);

/* For the stacks of other privilege levels, which are read and written before CPL changes. */
u64 mmu_read_as(struct soft_cpu *c, enum mmu_class cls, u64 la, unsigned size);
void mmu_write_as(struct soft_cpu *c, enum mmu_class cls, u64 la, u64 value, unsigned size);
void mmu_probe_as(struct soft_cpu *c, enum mmu_class cls, u64 la, unsigned len, enum soft_access access);

static inline enum mmu_class mmu_class_of_cpl(unsigned cpl)
{
    return cpl == 3 ? MMU_USER : MMU_SYS;
}

const struct paging_env *mmu_paging_env(const struct soft_cpu *c);

#endif

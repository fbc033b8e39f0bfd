/*
 * A writer of AML, the byte code of ACPI's definition blocks (ACPI 6.4, chapter 20), just large enough
 * for a DSDT that describes a fixed board.
 *
 * What has a body is opened by aml_..._begin() and closed by aml_end(). A value is written after what
 * wants it: aml_name(a, "_UID"), aml_int(a, 0). Running out of memory is remembered and told by
 * aml_finish(), so calls in between need no checks.
 */
#ifndef TRAPEZE_MACHINE_AML_H
#define TRAPEZE_MACHINE_AML_H

#include "base/compiler.h"

#define AML_MAX_DEPTH 12

struct aml {
    u8 *data;
    size_t len, cap;
    bool failed;
    struct {
        size_t at;      /* where the package length belongs */
        bool resources; /* a resource template: ends with an end tag, has a size of its own */
    } open[AML_MAX_DEPTH];
    unsigned depth;
};

void aml_init(struct aml *a);
void aml_release(struct aml *a);

/* 0, or -ENOMEM. Everything must be closed. */
int aml_finish(struct aml *a);

/* Named objects. Names: "ABCD", "\\ABC", "\\_SB.PCI0"; short segments are filled up. */
void aml_scope_begin(struct aml *a, const char *name);
void aml_device_begin(struct aml *a, const char *name);
void aml_method_begin(struct aml *a, const char *name, unsigned args);
void aml_package_begin(struct aml *a, unsigned elements);
void aml_resources_begin(struct aml *a);
void aml_end(struct aml *a);

/* The value follows. */
void aml_name(struct aml *a, const char *name);

/* Values and terms */
void aml_int(struct aml *a, u64 value);
void aml_string(struct aml *a, const char *s);
void aml_eisaid(struct aml *a, const char *id); /* "PNP0A08" as an integer */
void aml_ref(struct aml *a, const char *name);
void aml_arg(struct aml *a, unsigned n);
void aml_store(struct aml *a); /* source and target follow */
void aml_return(struct aml *a);
void aml_if_begin(struct aml *a); /* the condition follows, then the body */

/* Resource descriptors (ACPI 6.4, 6.4), between aml_resources_begin() and aml_end(). */
void aml_io(struct aml *a, u16 base, u8 len);
void aml_irq(struct aml *a, unsigned irq); /* edge, active high */
void aml_memory32(struct aml *a, u32 base, u32 len, bool writable);
void aml_qword_reserved(struct aml *a, u64 base, u64 len); /* memory that a device consumes, any address */

/* Windows that a bridge hands on, [first, last]. */
void aml_window_bus(struct aml *a, u16 first, u16 last);
void aml_window_io(struct aml *a, u16 first, u16 last);
void aml_window_memory32(struct aml *a, u32 first, u32 last);
void aml_window_memory64(struct aml *a, u64 first, u64 last);

#endif

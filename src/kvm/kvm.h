/*
 * The KVM engine (kvm_engine in cpu/engine.h): guest code runs on the CPU itself, through /dev/kvm. The
 * only folder that knows <linux/kvm.h>.
 */
#ifndef TRAPEZE_KVM_KVM_H
#define TRAPEZE_KVM_KVM_H

#include "cpu/engine.h"

#endif

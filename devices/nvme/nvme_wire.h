// SPDX-License-Identifier: BSD-2-Clause
// Registers, commands and structures of NVM Express 1.4, as far as controller.c, admin.c and io.c know them.  Little-endian.
#ifndef MINIVMM_NVME_WIRE_H
#define MINIVMM_NVME_WIRE_H

#include <stdint.h>

// ---- registers, §3.1

#define NVME_CAP       0x00 // 8
#define NVME_VS	       0x08
#define NVME_INTMS     0x0c
#define NVME_INTMC     0x10
#define NVME_CC	       0x14
#define NVME_CSTS      0x1c
#define NVME_AQA       0x24
#define NVME_ASQ       0x28 // 8
#define NVME_ACQ       0x30 // 8
#define NVME_REGS_LEN  0x40
#define NVME_DOORBELLS 0x1000

#define NVME_CAP_CQR	   (UINT64_C(1) << 16) // queues lie in one piece
#define NVME_CAP_TO(ms500) ((uint64_t)(ms500) << 24)
#define NVME_CAP_CSS_NVM   (UINT64_C(1) << 37)
#define NVME_VERSION_1_4   0x00010400u

#define NVME_CC_EN	  0x1u
#define NVME_CC_FIXED	  0x3ff0u // CSS, MPS, AMS: there is one choice of each, 0
#define NVME_CC_SHN	  0xc000u
#define NVME_CC_IOSQES(c) ((c) >> 16 & 15)
#define NVME_CC_IOCQES(c) ((c) >> 20 & 15)
#define NVME_CSTS_RDY	  0x1u
#define NVME_CSTS_CFS	  0x2u
#define NVME_CSTS_SHST	  0x8u // shutdown processing complete

// ---- commands, §4.2

struct nvme_command {
	uint8_t opcode;
	uint8_t flags; // bits 7:6: PSDT, 0 for PRPs; 1:0: fused
	uint16_t cid;
	uint32_t nsid;
	uint32_t cdw2, cdw3;
	uint64_t mptr;
	uint64_t prp1, prp2;
	uint32_t cdw10, cdw11, cdw12, cdw13, cdw14, cdw15;
};

struct nvme_completion {
	uint32_t dw0;
	uint32_t reserved;
	uint16_t sq_head;
	uint16_t sqid;
	uint16_t cid;
	uint16_t status; // phase, then nvme_status << 1
};

_Static_assert(sizeof(struct nvme_command) == 64, "command");
_Static_assert(sizeof(struct nvme_completion) == 16, "completion");

enum nvme_admin_opcode {
	NVME_DELETE_SQ = 0x00,
	NVME_CREATE_SQ = 0x01,
	NVME_GET_LOG_PAGE = 0x02,
	NVME_DELETE_CQ = 0x04,
	NVME_CREATE_CQ = 0x05,
	NVME_IDENTIFY = 0x06,
	NVME_ABORT = 0x08,
	NVME_SET_FEATURES = 0x09,
	NVME_GET_FEATURES = 0x0a,
	NVME_ASYNC_EVENT = 0x0c,
	NVME_DOORBELL_BUFFER = 0x7c,
};

enum nvme_io_opcode {
	NVME_FLUSH = 0x00,
	NVME_WRITE = 0x01,
	NVME_READ = 0x02,
	NVME_WRITE_ZEROES = 0x08,
	NVME_DSM = 0x09,
};

// Status code and type << 8, §4.6.1; NVME_DNR: the same command would fail again.
enum nvme_status {
	NVME_OK = 0,
	NVME_INVALID_OPCODE = 0x01,
	NVME_INVALID_FIELD = 0x02,
	NVME_TRANSFER_ERROR = 0x04,
	NVME_INTERNAL_ERROR = 0x06,
	NVME_INVALID_NAMESPACE = 0x0b,
	NVME_SEQUENCE_ERROR = 0x0c,
	NVME_PRP_OFFSET = 0x13,
	NVME_WRITE_PROTECTED = 0x20,
	NVME_LBA_RANGE = 0x80,
	NVME_INVALID_CQ = 0x100,
	NVME_INVALID_QID = 0x101,
	NVME_INVALID_QSIZE = 0x102,
	NVME_TOO_MANY_EVENTS = 0x105,
	NVME_INVALID_VECTOR = 0x108,
	NVME_INVALID_LOG = 0x109,
	NVME_INVALID_DELETION = 0x10c,
	NVME_NOT_SAVEABLE = 0x10d,
	NVME_NOT_CHANGEABLE = 0x10e,
	NVME_WRITE_FAULT = 0x280,
	NVME_READ_ERROR = 0x281,
	NVME_DNR = 0x4000,
};

enum nvme_feature {
	NVME_FEATURE_ARBITRATION = 0x01,
	NVME_FEATURE_POWER = 0x02,
	NVME_FEATURE_TEMPERATURE = 0x04,
	NVME_FEATURE_RECOVERY = 0x05,
	NVME_FEATURE_WRITE_CACHE = 0x06,
	NVME_FEATURE_QUEUES = 0x07,
	NVME_FEATURE_COALESCING = 0x08,
	NVME_FEATURE_VECTOR = 0x09,
	NVME_FEATURE_ATOMICITY = 0x0a,
	NVME_FEATURE_EVENTS = 0x0b,
	NVME_FEATURES,
};

struct nvme_dsm_range {
	uint32_t attributes;
	uint32_t blocks;
	uint64_t lba;
};

#define NVME_DSM_DEALLOCATE 0x4u
#define NVME_RW_FUA	    0x40000000u // of cdw12
#define NVME_WZ_DEALLOCATE  0x02000000u

#endif

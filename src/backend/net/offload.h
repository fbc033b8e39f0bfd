/*
 * In software what a card leaves undone: checksums, segmentation, fragments. Frames come from a guest or from
 * another machine: every offset in them, and in what is said about them, is checked against their length.
 * All frames here lie in one piece.
 */
#ifndef TRAPEZE_BACKEND_NET_OFFLOAD_H
#define TRAPEZE_BACKEND_NET_OFFLOAD_H

#include "backend/net/net.h"

#define NET_SEGMENT_MIN 48   /* bytes of payload a segment: smaller ones are an attack, not a network */
#define NET_HEADERS_MAX 256u /* of a frame that is cut up */

enum { NET_IP_TCP = 6, NET_IP_UDP = 17 };

/* Where things are. All offsets are from the frame's start and within the frame. */
struct net_layers {
    unsigned version;  /* of IP: 4 or 6 */
    unsigned protocol; /* of what IP carries; extension headers of IPv6 are stepped over */
    bool fragment;     /* of a packet: the offsets below mean nothing */
    u32 ip, transport; /* headers */
    u32 payload;       /* behind the header of TCP or UDP; else `transport` */
    u32 end;           /* of the packet; what follows is padding */
};

/* False when it is not IP, or cut off, or contradicts itself. Tags of VLANs are stepped over. */
bool net_layers_parse(struct net_layers *l, const u8 *frame, size_t len);

/* The sum of big-endian 16-bit words that checksums are made from (RFC 1071), in the host's byte order. */
u32 net_sum(const u8 *data, size_t len, u32 sum);
/* Folded to 16 bits, not complemented. */
u16 net_fold(u32 sum);
/* Of the pseudo header, with @len bytes from the transport header on. */
u32 net_pseudo_sum(const u8 *frame, const struct net_layers *l, u32 len);

/* Makes the checksum that @o leaves to be made. False when it would lie beyond the frame: drop it. */
bool net_finish_checksum(u8 *frame, size_t len, struct net_offload *o);

/* A frame for the wire, which lives for the call. False ends the work. */
typedef bool net_emit(void *to, const struct net_frame *f);

/*
 * Cuts a frame into segments as @o says, complete with checksums. 0, also when @emit ended it, or -EINVAL
 * when nothing came out because frame and @o do not go together.
 */
int net_segment(const u8 *frame, size_t len, const struct net_offload *o, net_emit *emit, void *to);

/* Cuts an IP packet longer than @mtu into fragments; @id tells those of one IPv6 packet. As net_segment(). */
int net_fragment(const u8 *frame, size_t len, unsigned mtu, u32 id, net_emit *emit, void *to);

/*
 * Sees to it that @f, whose bytes are the @len at @frame and may be changed, needs nothing that is not in
 * @can, NET_CAN_...: one or several frames come out, or none when it is broken.
 */
void net_adapt(u8 *frame, const struct net_frame *f, unsigned can, net_emit *emit, void *to);

/* Does @o ask for nothing but what is in @can? */
bool net_offload_fits(const struct net_offload *o, unsigned can);

/* Can @o be of a frame of @len bytes? What does not lie within it, or is no kind of NET_GSO_..., cannot. */
bool net_offload_valid(const struct net_offload *o, size_t len);

/*
 * Makes the sender of a TCP connection's first segments send as large ones as @mss: changes the option in
 * a SYN. It has its checksum, or @partial: only that of the pseudo header.
 */
void net_set_mss(u8 *frame, size_t len, u16 mss, bool partial);

#endif

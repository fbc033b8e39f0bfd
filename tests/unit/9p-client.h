/*
 * A client of 9P2000.L for tests of the server: builds messages, has them executed, and takes the fields out
 * of the replies. A function returns 0 or a count, or the server's error as -errno.
 */
#ifndef TRAPEZE_TESTS_9P_CLIENT_H
#define TRAPEZE_TESTS_9P_CLIENT_H

#include <stdarg.h>
#include <string.h>

#include "backend/share/share.h"

enum {
    NAME_SIZE = 256,
    T_LOPEN = 12,
    T_LCREATE = 14,
    T_SYMLINK = 16,
    T_MKNOD = 18,
    T_RENAME = 20,
    T_READLINK = 22,
    T_GETATTR = 24,
    T_SETATTR = 26,
    T_XATTRWALK = 30,
    T_XATTRCREATE = 32,
    T_READDIR = 40,
    T_FSYNC = 50,
    T_LOCK = 52,
    T_GETLOCK = 54,
    T_LINK = 70,
    T_MKDIR = 72,
    T_RENAMEAT = 74,
    T_UNLINKAT = 76,
    T_VERSION = 100,
    T_ATTACH = 104,
    T_FLUSH = 108,
    T_WALK = 110,
    T_READ = 116,
    T_WRITE = 118,
    T_CLUNK = 120,
    T_REMOVE = 122,
};

#define CLIENT_BUFFER 70000
#define ATTRIBUTE_FID 999

struct client {
    struct share *share;
    u32 uid;    /* who attaches */
    u32 room;   /* for replies */
    u8 type;    /* of the message */
    size_t len; /* of it */
    u8 message[CLIENT_BUFFER];
    u8 reply[CLIENT_BUFFER + 1];
    size_t reply_len;

    /* What the last reply had. */
    const u8 *data;
    char version[16], text[4096];
    struct {
        u32 mode, uid, gid;
        u64 qid, nlink, rdev, size;
    } attr;
};

static inline void client_init(struct client *c, struct share *s)
{
    c->share = s;
    c->uid = 0;
    c->room = CLIENT_BUFFER;
}

static inline void put_u8(struct client *c, u8 v)
{
    c->message[c->len++] = v;
}
static inline void put_u16(struct client *c, u16 v)
{
    put_le16(c->message + c->len, v);
    c->len += 2;
}
static inline void put_u32(struct client *c, u32 v)
{
    put_le32(c->message + c->len, v);
    c->len += 4;
}
static inline void put_u64(struct client *c, u64 v)
{
    put_le64(c->message + c->len, v);
    c->len += 8;
}
static inline void put_string(struct client *c, const char *s)
{
    put_u16(c, (u16)strlen(s));
    memcpy(c->message + c->len, s, strlen(s));
    c->len += strlen(s);
}

static inline void message_begin(struct client *c, u8 type)
{
    c->type = type;
    c->len = 4;
    put_u8(c, type);
    put_u16(c, 1);
}

/* @size: what the message says that it has; 0: what it has. */
static inline void message_transfer(struct client *c, u32 size)
{
    /* In two pieces each, at odd places. */
    struct iovec out[2] = {{c->message, 9}, {c->message + 9, c->len - 9}};
    struct iovec in[2] = {{c->reply, 3}, {c->reply + 3, c->room - 3}};
    struct share_request r = {.out = out,
                              .in = in,
                              .out_count = c->len > 9 ? 2 : 1,
                              .in_count = 2,
                              .out_bytes = c->len,
                              .in_bytes = c->room};
    if (c->len <= 9)
        out[0].iov_len = c->len;
    put_le32(c->message, size ? size : (u32)c->len);
    share_execute(c->share, &r);
    c->reply_len = r.written;
    c->data = c->reply + 7;
}

static inline int message_send_as(struct client *c, u32 size)
{
    message_transfer(c, size);
    BUG_ON(c->reply_len < 7 || get_le32(c->reply) != c->reply_len || get_le16(c->reply + 5) != 1);
    if (c->reply[4] == 7)
        return -(int)get_le32(c->reply + 7);
    BUG_ON(c->reply[4] != c->type + 1);
    if (c->type == T_VERSION) {
        memset(c->version, 0, sizeof c->version);
        memcpy(c->version, c->reply + 13, MIN(get_le16(c->reply + 11), 15));
    }
    return 0;
}

static inline int message_send(struct client *c)
{
    return message_send_as(c, 0);
}

static inline int client_version(struct client *c, u32 msize)
{
    message_begin(c, T_VERSION);
    put_u32(c, msize);
    put_string(c, "9P2000.L");
    int r = message_send(c);
    return r ? r : (int)get_le32(c->data);
}

static inline int client_attach(struct client *c, u32 fid)
{
    message_begin(c, T_ATTACH);
    put_u32(c, fid);
    put_u32(c, ~0u);
    put_string(c, "user");
    put_string(c, "/");
    put_u32(c, c->uid);
    return message_send(c);
}

/* Names walked. */
static inline int client_walk(struct client *c, u32 fid, u32 new_fid, int count, ...)
{
    va_list names;
    message_begin(c, T_WALK);
    put_u32(c, fid);
    put_u32(c, new_fid);
    put_u16(c, (u16)count);
    va_start(names, count);
    for (int i = 0; i < count; i++)
        put_string(c, va_arg(names, const char *));
    va_end(names);
    int r = message_send(c);
    return r ? r : get_le16(c->data);
}

static inline int client_clunk(struct client *c, u32 fid)
{
    message_begin(c, T_CLUNK);
    put_u32(c, fid);
    return message_send(c);
}

static inline int client_remove(struct client *c, u32 fid)
{
    message_begin(c, T_REMOVE);
    put_u32(c, fid);
    return message_send(c);
}

static inline int client_getattr(struct client *c, u32 fid)
{
    message_begin(c, T_GETATTR);
    put_u32(c, fid);
    put_u64(c, 0x7ff);
    int r = message_send(c);
    if (r)
        return r;
    c->attr.qid = get_le64(c->data + 13);
    c->attr.mode = get_le32(c->data + 21);
    c->attr.uid = get_le32(c->data + 25);
    c->attr.gid = get_le32(c->data + 29);
    c->attr.nlink = get_le64(c->data + 33);
    c->attr.rdev = get_le64(c->data + 41);
    c->attr.size = get_le64(c->data + 49);
    return 0;
}

static inline u64 client_qid(struct client *c, u32 fid)
{
    return client_getattr(c, fid) ? 0 : c->attr.qid;
}

static inline int client_setattr(struct client *c, u32 fid, u32 valid, u32 mode, u32 uid, u32 gid, u64 size)
{
    message_begin(c, T_SETATTR);
    put_u32(c, fid);
    put_u32(c, valid);
    put_u32(c, mode);
    put_u32(c, uid);
    put_u32(c, gid);
    put_u64(c, size);
    for (unsigned i = 0; i < 4; i++)
        put_u64(c, 0);
    return message_send(c);
}

static inline int client_setattr_size(struct client *c, u32 fid, u64 size)
{
    return client_setattr(c, fid, 8, 0, 0, 0, size);
}
static inline int client_chmod(struct client *c, u32 fid, u32 mode)
{
    return client_setattr(c, fid, 1, mode, 0, 0, 0);
}
static inline int client_chown(struct client *c, u32 fid, u32 uid, u32 gid)
{
    return client_setattr(c, fid, 6, 0, uid, gid, 0);
}

static inline int client_readlink(struct client *c, u32 fid)
{
    message_begin(c, T_READLINK);
    put_u32(c, fid);
    int r = message_send(c);
    if (r)
        return r;
    memcpy(c->text, c->data + 2, get_le16(c->data));
    c->text[get_le16(c->data)] = 0;
    return 0;
}

static inline int client_lopen(struct client *c, u32 fid, int flags)
{
    message_begin(c, T_LOPEN);
    put_u32(c, fid);
    put_u32(c, (u32)flags);
    return message_send(c);
}

static inline int client_lcreate(struct client *c, u32 fid, const char *name, int flags, u32 mode)
{
    message_begin(c, T_LCREATE);
    put_u32(c, fid);
    put_string(c, name);
    put_u32(c, (u32)flags);
    put_u32(c, mode);
    put_u32(c, 0);
    return message_send(c);
}

/* Bytes, at c->data. */
static inline int client_read(struct client *c, u32 fid, u64 offset, u32 count)
{
    message_begin(c, T_READ);
    put_u32(c, fid);
    put_u64(c, offset);
    put_u32(c, count);
    int r = message_send(c);
    c->data = c->reply + 11;
    return r ? r : (int)get_le32(c->reply + 7);
}

static inline int client_readdir(struct client *c, u32 fid, u64 offset, u32 count)
{
    message_begin(c, T_READDIR);
    put_u32(c, fid);
    put_u64(c, offset);
    put_u32(c, count);
    int r = message_send(c);
    c->data = c->reply + 11;
    return r ? r : (int)get_le32(c->reply + 7);
}

static inline int client_write(struct client *c, u32 fid, u64 offset, const void *data, u32 len)
{
    message_begin(c, T_WRITE);
    put_u32(c, fid);
    put_u64(c, offset);
    put_u32(c, len);
    memcpy(c->message + c->len, data, len);
    c->len += len;
    int r = message_send(c);
    return r ? r : (int)get_le32(c->data);
}

static inline int client_fsync(struct client *c, u32 fid)
{
    message_begin(c, T_FSYNC);
    put_u32(c, fid);
    put_u32(c, 0);
    return message_send(c);
}

static inline int client_mkdir(struct client *c, u32 fid, const char *name, u32 mode)
{
    message_begin(c, T_MKDIR);
    put_u32(c, fid);
    put_string(c, name);
    put_u32(c, mode);
    put_u32(c, 0);
    return message_send(c);
}

static inline int client_mknod(struct client *c, u32 fid, const char *name, u32 mode, u32 major, u32 minor)
{
    message_begin(c, T_MKNOD);
    put_u32(c, fid);
    put_string(c, name);
    put_u32(c, mode);
    put_u32(c, major);
    put_u32(c, minor);
    put_u32(c, 0);
    return message_send(c);
}

static inline int client_symlink(struct client *c, u32 fid, const char *name, const char *target)
{
    message_begin(c, T_SYMLINK);
    put_u32(c, fid);
    put_string(c, name);
    put_string(c, target);
    put_u32(c, 0);
    return message_send(c);
}

static inline int client_link(struct client *c, u32 dir, u32 fid, const char *name)
{
    message_begin(c, T_LINK);
    put_u32(c, dir);
    put_u32(c, fid);
    put_string(c, name);
    return message_send(c);
}

static inline int client_rename(struct client *c, u32 dir, const char *name, u32 new_dir,
                                const char *new_name)
{
    message_begin(c, T_RENAMEAT);
    put_u32(c, dir);
    put_string(c, name);
    put_u32(c, new_dir);
    put_string(c, new_name);
    return message_send(c);
}

static inline int client_rename_fid(struct client *c, u32 fid, u32 dir, const char *name)
{
    message_begin(c, T_RENAME);
    put_u32(c, fid);
    put_u32(c, dir);
    put_string(c, name);
    return message_send(c);
}

static inline int client_unlink(struct client *c, u32 dir, const char *name, u32 flags)
{
    message_begin(c, T_UNLINKAT);
    put_u32(c, dir);
    put_string(c, name);
    put_u32(c, flags);
    return message_send(c);
}

/* The status: 0 locked, 1 blocked. */
static inline int client_lock(struct client *c, u32 fid, u8 type, u64 start, u64 len, u32 process)
{
    message_begin(c, T_LOCK);
    put_u32(c, fid);
    put_u8(c, type);
    put_u32(c, 0);
    put_u64(c, start);
    put_u64(c, len);
    put_u32(c, process);
    put_string(c, "guest");
    int r = message_send(c);
    return r ? r : c->data[0];
}

/* The type of the lock in the way. */
static inline int client_getlock(struct client *c, u32 fid, u8 type, u64 start, u64 len, u32 process)
{
    message_begin(c, T_GETLOCK);
    put_u32(c, fid);
    put_u8(c, type);
    put_u64(c, start);
    put_u64(c, len);
    put_u32(c, process);
    put_string(c, "guest");
    int r = message_send(c);
    return r ? r : c->data[0];
}

/* Its length; the value at c->data. */
static inline int client_get_attribute(struct client *c, u32 fid, const char *name)
{
    message_begin(c, T_XATTRWALK);
    put_u32(c, fid);
    put_u32(c, ATTRIBUTE_FID);
    put_string(c, name);
    int r = message_send(c);
    if (r)
        return r;
    int size = (int)get_le64(c->data), n = client_read(c, ATTRIBUTE_FID, 0, (u32)size);
    u8 first[256];
    memcpy(first, c->data, sizeof first);
    r = client_clunk(c, ATTRIBUTE_FID);
    memcpy(c->reply + 11, first, sizeof first);
    c->data = c->reply + 11;
    return r ? r : n == size ? n : -1;
}

static inline int client_set_attribute(struct client *c, u32 fid, const char *name, const void *value,
                                       u32 len, u32 flags)
{
    int r = client_walk(c, fid, ATTRIBUTE_FID, 0);
    if (r)
        return r;
    message_begin(c, T_XATTRCREATE);
    put_u32(c, ATTRIBUTE_FID);
    put_string(c, name);
    put_u64(c, len);
    put_u32(c, flags);
    r = message_send(c);
    if (!r && len)
        r = client_write(c, ATTRIBUTE_FID, 0, value, len) == (int)len ? 0 : -1;
    int end = client_clunk(c, ATTRIBUTE_FID);
    return r ? r : end;
}

#endif

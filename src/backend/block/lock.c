/* Keeps a second writer away from an image. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "backend/block/file.h"
#include "base/log.h"

int host_file_lock(const struct host_file *f, struct error *err)
{
    struct flock fl = {.l_type = f->read_only ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(f->fd, F_OFD_SETLK, &fl) == 0)
        return 0;
    if (errno == EAGAIN || errno == EACCES)
        return error_set(err, EBUSY, "'%s' is in use by another process", f->path);
    log_warn("'%s' is not protected against a second user: %s", f->path, strerror(errno));
    return 0;
}
